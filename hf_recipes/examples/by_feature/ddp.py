"""One run over several processes with the path of a single one: the same global batch, the loss scaled to it.

    cd hf_recipes/examples/by_feature
    torchrun --nproc_per_node 2 ddp.py ../../../studies/tweets-demo/dataset llm ../../../models/all-MiniLM-L6-v2 --cpu
    accelerate launch --multi_gpu ddp.py owner/dataset llm FacebookAI/roberta-base

Accelerate's batch size is that of each process; here `--batch_size` is that of all together, as a run is told by it.
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
    parser.add_argument("--batch_size", type=int, default=16, help="of all processes together")
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()

    # New feature: a batch of the loader is the global one, of which each process takes its share
    accelerator = Accelerator(cpu=args.cpu, dataloader_config=DataLoaderConfiguration(split_batches=True))
    # New feature: fewer processes than were asked for do another experiment in silence
    accelerator.print(f"{accelerator.num_processes} processes, {args.batch_size} texts a step")
    set_seed(0)
    train = load_dataset(args.dataset, args.config, split="train").shuffle(0).select(range(args.size))
    names = train.features["label"].names
    tokenizer = AutoTokenizer.from_pretrained(args.encoder, trust_remote_code=False)
    with accelerator.main_process_first():
        train = train.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    train = train.select_columns(["input_ids", "attention_mask", "label"])
    # New feature: drop_last, as a last batch that cannot be split evenly would weigh its texts unevenly
    loader = DataLoader(train, args.batch_size, drop_last=True, collate_fn=DataCollatorWithPadding(tokenizer))
    model = AutoModelForSequenceClassification.from_pretrained(
        args.encoder,
        num_labels=len(names),
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for batch in loader:
        loss = model(**batch).loss  # the mean of this process's share; DDP takes the mean of the gradients
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    norm = torch.cat([p.detach().flatten() for p in model.parameters()]).norm().item()
    loss = accelerator.reduce(loss.detach(), "mean").item()
    accelerator.print(f"last loss {loss:.4f}, norm of the weights {norm:.4f}")


if __name__ == "__main__":
    main()
