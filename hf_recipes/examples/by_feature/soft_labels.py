"""minimal.py on the LLM's whole distribution in place of its label: cross-entropy with `llm_probs` as the target.

python hf_recipes/examples/by_feature/soft_labels.py studies/tweets-demo/dataset models/all-MiniLM-L6-v2
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset")
    parser.add_argument("encoder")
    parser.add_argument("--size", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=3)
    args = parser.parse_args()

    accelerator = Accelerator(cpu=True)
    set_seed(0)
    train = load_dataset(args.dataset, "llm", split="train").shuffle(0).select(range(args.size))
    tokenizer = AutoTokenizer.from_pretrained(args.encoder, trust_remote_code=False)
    train = train.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    # New feature: the target is a list of probabilities
    train = train.rename_column("llm_probs", "target").select_columns(["input_ids", "attention_mask", "target"])
    loader = DataLoader(train, 16, shuffle=True, collate_fn=DataCollatorWithPadding(tokenizer))
    model = AutoModelForSequenceClassification.from_pretrained(
        args.encoder,
        num_labels=len(train[0]["target"]),
        use_safetensors=True,
        trust_remote_code=False,
        dtype=torch.float32,
    )
    optimizer = torch.optim.AdamW(model.parameters(), 2e-4)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    for epoch in range(args.epochs):
        total = 0.0
        for batch in loader:
            # New feature: torch's cross-entropy takes probabilities as it takes classes
            target = batch.pop("target").float()
            loss = torch.nn.functional.cross_entropy(model(**batch).logits, target)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            total += loss.item() * len(target)
        accelerator.print(f"epoch {epoch}: cross-entropy with the LLM's distribution {total / len(train):.3f} nats")


if __name__ == "__main__":
    main()
