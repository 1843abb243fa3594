"""A model that was exported, by lmkit or by transformers, to the same model trained on.

lmkit export my_model my_model_hf
python examples/continue_from_export.py my_model_hf more_text.txt my_model_2
"""

import sys

from transformers import AutoModelForCausalLM, AutoTokenizer

from lmkit.lm import Trainer, export_model, import_model

source, text, folder = sys.argv[1:]

made = import_model(source, folder)
print(f"{made.kind} with {made.parameters:,} parameters is now {made.checkpoint}")

# What is not given here comes from the model: its shape, its tokenizer, its length of sequences.
given = {"load_checkpoint": made.checkpoint, "train_data": text, "batch_size": 8}
Trainer({**given, "learning_rate": 1e-3, "max_iters": 50, "log_interval": 10}).train()

export_model(folder, f"{folder}_hf")
tokenizer = AutoTokenizer.from_pretrained(f"{folder}_hf")
model = AutoModelForCausalLM.from_pretrained(f"{folder}_hf")
prompt = tokenizer("The ", return_tensors="pt")
ids = model.generate(
    prompt["input_ids"], attention_mask=prompt["attention_mask"], max_new_tokens=30
)
print(tokenizer.decode(ids[0]))
