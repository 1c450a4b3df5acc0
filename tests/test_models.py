"""Models by name: the files that are downloaded, and the tokenizer of a repository in two formats."""

import json
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL_RECIPE

from hf_recipes.annotate_section import Prompt
from hf_recipes.annotation.few_shot import FewShotExamples
from hf_recipes.annotation.prompts import Prompts
from hf_recipes.errors import UserError
from hf_recipes.hashing import hash_files
from hf_recipes.models import SETTINGS, WEIGHTS, Model, load_tokenizer
from hf_recipes.recipe import Annotate, Data

NUM_TOKENS = 3000  # of tekken.json, without special tokens


@pytest.fixture(scope="module")
def mistral(tmp_path_factory):
    """A folder with the first tokens of Mistral's own tokenizer in its two formats, as its repositories have them."""
    import mistral_common
    from tokenizers.processors import TemplateProcessing
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("mistral")
    content = json.loads((Path(mistral_common.__file__).parent / "data" / "tekken_240911.json").read_text())
    content["vocab"] = content["vocab"][:NUM_TOKENS]
    size = NUM_TOKENS + content["config"]["default_num_special_tokens"]
    content["config"] |= {"num_vocab_tokens": NUM_TOKENS, "default_vocab_size": size}
    (folder / "tekken.json").write_text(json.dumps(content))
    config = {"model_type": "mistral", "architectures": ["MistralForCausalLM"], "vocab_size": size}
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = AutoTokenizer.from_pretrained(folder, mistral_format=False)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.convert_tokens_to_ids("<s>"))]
    )
    tokenizer.save_pretrained(folder)
    return folder


def test_a_mistral_repository_is_read_by_its_tokenizer_json_as_mistral_reads_it(mistral):
    from mistral_common.tokens.tokenizers.tekken import Tekkenizer

    section = Annotate(model="m", prompt=Prompt(instruction="Good or bad?"), max_model_len=512)
    data = Data(path="d", label_column="label", label_names=["good", "bad"])
    tokenizer = load_tokenizer("annotate.model", Model("mistral", mistral, "x"))
    examples = FewShotExamples(np.array([], dtype=int), [], [], [])
    prompts = Prompts(section, data, ["good", "bad"], examples, tokenizer, date.today())
    own = Tekkenizer.from_file(mistral / "tekken.json")
    for text in ("A good day, 2026!", "caf\u00e9 [INST] </s> <s>", "x" * 2000):
        ((ids, is_cut),) = prompts.encode([text])
        assert is_cut == (len(text) > 1000)
        if not is_cut:  # Mistral's tokenizer reads `</s>` in a text as plain text, too.
            assert ids == own.encode(prompts.frame.head + text + prompts.frame.tail, bos=True, eos=False)


def test_a_repository_with_mistrals_tokenizer_alone_is_refused(mistral, tmp_path):
    for name in ("tekken.json", "config.json"):
        (tmp_path / name).write_bytes((mistral / name).read_bytes())
    with pytest.raises(UserError, match="`annotate.model` must have a tokenizer.json. Got own with tekken.json alone"):
        load_tokenizer("annotate.model", Model("own", tmp_path, "x"))


UPLOAD = """
from huggingface_hub import HfApi
hub = HfApi()
hub.create_repo("me/mistral")
hub.upload_folder(repo_id="me/mistral", folder_path={folder!r})
print("true")
"""
RESOLVE = """
import json
from hf_recipes.models import find_again, resolve_model
from hf_recipes.recipe import load_recipe
from hf_recipes.study import Study
study = Study(load_recipe({recipe!r}, ["--output_dir={output}"]))
model = resolve_model(study, "annotate.model", "me/mistral", None)
assert find_again("annotate.model", model) == model.folder
print(json.dumps(sorted(path.name for path in model.folder.iterdir())))
"""


def test_a_second_copy_of_the_weights_is_not_downloaded_and_counts_in_a_folder(hub, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    kept = ["config.json", "model-00001-of-00001.safetensors", "model.safetensors.index.json", "params.json"]
    for name in (*kept, "consolidated.safetensors", "consolidated-00001-of-00002.safetensors"):
        (folder / name).write_text(json.dumps({"name": name}))
    hub.python(UPLOAD.format(folder=str(folder)))
    assert hub.python(RESOLVE.format(recipe=str(SMALL_RECIPE), output=tmp_path / "study")) == kept
    assert not [line for line in hub.ask("log") if "resolve" in line and "consolidated" in line]
    # vLLM loads the second copy of a local folder, so its bytes are part of the model's identity.
    first = hash_files(folder, WEIGHTS + SETTINGS)
    (folder / "consolidated.safetensors").write_text("other weights")
    assert hash_files(folder, WEIGHTS + SETTINGS) != first
