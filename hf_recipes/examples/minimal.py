"""One encoder trained on one config of a published dataset, with accelerate alone: what a run of the grid does.

python hf_recipes/examples/minimal.py studies/tweets-demo/dataset llm models/all-MiniLM-L6-v2
accelerate launch --multi_gpu hf_recipes/examples/minimal.py owner/dataset llm answerdotai/ModernBERT-base
"""

import argparse

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from datasets import load_dataset
from sklearn.metrics import f1_score
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    get_linear_schedule_with_warmup,
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", help="a dataset folder of a study, or its Hub id")
    parser.add_argument("config", help="the variant: gold, llm, ...")
    parser.add_argument("encoder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch_size", type=int, default=16, help="of each process")
    parser.add_argument("--learning_rate", type=float, default=2e-4)
    parser.add_argument("--size", type=int, help="training texts; all by default")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()

    accelerator = Accelerator(cpu=args.cpu)
    set_seed(args.seed)
    data = load_dataset(args.dataset, args.config)
    if "text" not in data["train"].column_names:
        parser.error("it was published without its texts; its card shows how to join them")
    names = data["train"].features["label"].names
    if args.size:
        data["train"] = data["train"].shuffle(args.seed).select(range(args.size))
    tokenizer = AutoTokenizer.from_pretrained(args.encoder, trust_remote_code=False)
    with accelerator.main_process_first():
        data = data.map(lambda rows: tokenizer(rows["text"], truncation=True, max_length=128), batched=True)
    data = data.select_columns(["input_ids", "attention_mask", "label"])
    collate = DataCollatorWithPadding(tokenizer)
    train = DataLoader(data["train"], args.batch_size, shuffle=True, collate_fn=collate)
    test = DataLoader(data["test"], 64, collate_fn=collate)
    model = AutoModelForSequenceClassification.from_pretrained(
        args.encoder, num_labels=len(names), use_safetensors=True, trust_remote_code=False, dtype=torch.float32
    )
    optimizer = torch.optim.AdamW(model.parameters(), args.learning_rate)
    model, optimizer, train, test = accelerator.prepare(model, optimizer, train, test)
    steps = args.epochs * len(train)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 20, steps)

    for epoch in range(args.epochs):
        model.train()
        for batch in train:
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        model.eval()
        found, labels = [], []
        for batch in test:
            with torch.no_grad():
                logits = model(**batch).logits
            some, gold = accelerator.gather_for_metrics((logits.argmax(-1), batch["labels"]))
            found += some.tolist()
            labels += gold.tolist()
        accelerator.print(f"epoch {epoch}: macro-F1 {f1_score(labels, found, average='macro'):.3f}, n = {len(labels)}")


if __name__ == "__main__":
    main()
