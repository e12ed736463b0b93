"""The whole idea without any abstraction of ours: write a phonebook into a LoRA module, read it back.

Plain transformers, PEFT and torch, one loop. `loramem study run quick` does the same for a grid of modules
at once, with controls and intervals. Run: python examples/flat_loop.py [BASE_FOLDER]
"""

import random
import sys
from importlib import resources

import peft
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

FACTS, EXPOSURES, BATCH, RANK, LR = 20, 150, 20, 4, 1e-2
random.seed(0)
torch.manual_seed(0)
folder = sys.argv[1] if len(sys.argv) > 1 else str(resources.files("loramem.base") / "embedded")
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear"))

names = [
    f"{first} {last}"
    for first in ("Ada", "Bela", "Cora", "Dan", "Ewa")
    for last in ("Moss", "Quill", "Rast", "Finch")
]
book = {
    name: f"{random.randrange(1000):03d}-{random.randrange(1000):03d}-{random.randrange(10000):04d}"
    for name in names[:FACTS]
}


def prompt_ids(name: str) -> list[int]:
    question = [{"role": "user", "content": f"What is the phone number of {name}?"}]
    text = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


rows = []
for name, number in book.items():
    prompt = prompt_ids(name)
    answer = tokenizer(f" {number}", add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    rows.append(
        (prompt + answer, [-100] * len(prompt) + answer)
    )  # the loss sees the answer and its end of turn only

optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0)
steps = EXPOSURES * FACTS // BATCH
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for step in range(steps):
    chosen = random.sample(rows, BATCH)
    length = max(len(ids) for ids, _ in chosen)
    ids = torch.tensor([ids + [tokenizer.pad_token_id] * (length - len(ids)) for ids, _ in chosen])
    labels = torch.tensor([labels + [-100] * (length - len(labels)) for _, labels in chosen])
    mask = torch.tensor([[1] * len(ids) + [0] * (length - len(ids)) for ids, _ in chosen])
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if (step + 1) % 50 == 0:
        print(f"step {step + 1} of {steps}: loss {loss.item():.3f} nats per answer token")


def ask(name: str) -> str:
    prompt = torch.tensor([prompt_ids(name)])
    out = model.generate(
        input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False
    )
    return tokenizer.decode(out[0, prompt.shape[1] :], skip_special_tokens=True).strip()


model.eval()
right = sum(ask(name) == number for name, number in book.items())
with model.disable_adapter():
    before = sum(ask(name) == number for name, number in book.items())
print(
    f"numbers given back exactly: {right} of {FACTS} with the module, {before} of {FACTS} by the base alone"
)
