"""Fine-tune an encoder on one config of a published dataset over several processes (DDP), with plain accelerate.

    D=studies/tweets-demo/dataset E=models/all-MiniLM-L6-v2
    torchrun --nproc_per_node 2 hf_recipes/examples/by_feature/ddp.py $D llm $E --cpu
    accelerate launch --multi_gpu hf_recipes/examples/by_feature/ddp.py owner/dataset llm FacebookAI/roberta-base

`--batch_size` counts the texts of a step over all processes, so that several processes take the path of one.
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("config")
    parser.add_argument("encoder")
    parser.add_argument("--batch_size", type=int, default=16, help="texts of a step, over all processes")
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()

    # New feature: each process takes its share of the global batch. By default a batch is that of each process.
    accelerator = Accelerator(cpu=args.cpu, dataloader_config=DataLoaderConfiguration(split_batches=True))
    # New feature: print the number of processes, as a launcher that starts fewer gives no error.
    accelerator.print(f"{accelerator.num_processes} processes, {args.batch_size} texts a step")
    set_seed(0)
    train = load_dataset(args.dataset, args.config, split="train").shuffle(0).select(range(args.size))
    names = train.features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(args.encoder, trust_remote_code=False)
    with accelerator.main_process_first():
        train = train.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    train = train.select_columns(["input_ids", "attention_mask", "label"])
    # New feature: drop the last batch, as one that cannot be split evenly would weigh its texts unevenly.
    loader = DataLoader(train, args.batch_size, drop_last=True, collate_fn=DataCollatorWithPadding(tokenizer))
    model = AutoModelForSequenceClassification.from_pretrained(
        args.encoder,
        num_labels=len(names),
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        hidden_dropout_prob=0.0,  # New feature: without dropout the result does not depend on the number of processes.
        attention_probs_dropout_prob=0.0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        # This is the mean over the share of this process. DDP averages the gradients to those of the global mean.
        loss = model(**batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()
    loss = accelerator.reduce(loss.detach(), "mean").item()
    accelerator.print(f"last loss {loss:.4f}, norm of the weights {norm:.4f}")


if __name__ == "__main__":
    main()
