"""Training and measuring from the command line, on a tiny random Llama with a tokenizer made for the test."""

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from core.artifacts import WEIGHTS, verify
from learning.starter import evaluate
from learning.starter.__main__ import main as train
from learning.starter.__main__ import written
from learning.starter.card import BASE_MODEL, BASE_REVISION
from learning.starter.corpus import corpus

_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a random Llama of two layers, and a tokenizer that knows the corpus."""
    folder = tmp_path_factory.mktemp("base")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=["<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message["content"] for dialogue in corpus(200) for message in dialogue.messages]
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>", pad_token="<|im_end|>")
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(fast), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        pad_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    out = tmp_path_factory.mktemp("version") / "adapter"
    result = run(train, base, out)
    assert result.exit_code == 0, result.output
    return out


def run(command, base, out, *more):
    return CliRunner().invoke(
        command, ["--base", str(base), "--out", str(out), "--rank", "1", "--examples", "24", *more]
    )


class TestTrain:
    def test_leaves_a_whole_version_in_half_precision(self, adapter):
        manifest = verify(adapter, base_revision=BASE_REVISION)
        assert manifest["base"]["model"] == BASE_MODEL
        (only,) = manifest["runs"]
        assert (only["seed"], only["generated"], only["steps"], only["planned_steps"]) == (0, 24, 3, 3)
        config = json.loads((adapter / "adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["revision"]) == (BASE_MODEL, BASE_REVISION)
        weights = load_file(adapter / WEIGHTS)
        assert {tensor.dtype for tensor in weights.values()} == {torch.float16}
        assert any(tensor.abs().sum() > 0 for name, tensor in weights.items() if "lora_B" in name)
        card = (adapter / "README.md").read_text()
        assert "apache-2.0" in card
        assert "--seed 0 --examples 24" in card

    def test_is_the_same_for_the_same_seed(self, base, adapter, tmp_path):
        run(train, base, tmp_path / "again")
        run(train, base, tmp_path / "other", "--seed", "1")
        first = (adapter / WEIGHTS).read_bytes()
        assert (tmp_path / "again" / WEIGHTS).read_bytes() == first
        assert (tmp_path / "other" / WEIGHTS).read_bytes() != first

    def test_several_processes_write_what_one_writes(self, base):
        alone = written(base, 30, 5, processes=1)
        assert list(alone) == corpus(30, seed=5)
        assert list(written(base, 30, 5, processes=2).items()) == list(alone.items())

    def test_takes_larger_batches(self, base, tmp_path):
        assert run(train, base, tmp_path / "large", "--batch", "12").exit_code == 0
        (only,) = verify(tmp_path / "large", base_revision=BASE_REVISION)["runs"]
        assert (only["batch"], only["steps"], only["device"]) == (12, 2, "cpu")
        assert "2 of 2 steps of 12 examples" in (tmp_path / "large" / "README.md").read_text()

    def test_takes_families_whole_beside_the_batch(self, base, tmp_path):
        out = tmp_path / "families"
        assert run(train, base, out, "--batch", "6", "--families", "2").exit_code == 0
        (only,) = verify(out, base_revision=BASE_REVISION)["runs"]
        assert (only["steps"], only["examples"], only["families"]) == (4, 24, 2)
        assert 24 + 8 * 4 < only["generated"] <= 24 + 8 * 7
        card = (out / "README.md").read_text()
        assert "of 6 examples and 2 families" in card and "--examples 24 --batch 6 --families 2 --rate 0.0005" in card

    def test_goes_on_from_an_adapter_and_names_both_runs(self, base, adapter, tmp_path):
        result = run(train, base, tmp_path / "more", "--seed", "1", "--parent", str(adapter))
        assert result.exit_code == 0, result.output
        manifest = verify(tmp_path / "more", base_revision=BASE_REVISION)
        assert [one["seed"] for one in manifest["runs"]] == [0, 1] and manifest["generated"] == 48
        card = (tmp_path / "more" / "README.md").read_text()
        assert "--seed 0 --examples 24 --batch 8 --rate 0.0005`, then `" in card
        more = ["--seed", "1", "--parent", str(adapter), "--between", "0.5"]
        assert run(train, base, tmp_path / "half", *more).exit_code == 0
        assert "kept 50% of the way" in (tmp_path / "half" / "README.md").read_text()
        parent, half, whole = (load_file(path / WEIGHTS) for path in (adapter, tmp_path / "half", tmp_path / "more"))
        name = max(whole, key=lambda key: float((whole[key].float() - parent[key].float()).norm()))
        middle = (parent[name].float() + whole[name].float()) / 2
        assert torch.allclose(half[name].float(), middle, atol=1e-4)
        run(train, base, tmp_path / "other", "--seed", "1")
        assert (tmp_path / "more" / WEIGHTS).read_bytes() != (tmp_path / "other" / WEIGHTS).read_bytes()

    def test_half_precision_products_learn_the_same(self, base, tmp_path):
        """Autocast that keeps its first cast of the factors would leave every A where it began."""
        factors = {}
        for name, more in {"start": ["--rate", "0"], "fp32": ["--precision", "fp32"], "bf16": []}.items():
            assert run(train, base, tmp_path / name, "--rate", "0.003", "--examples", "80", *more).exit_code == 0
            weights = load_file(tmp_path / name / WEIGHTS)
            factors[name] = torch.cat([weights[key].float().flatten() for key in sorted(weights) if "lora_A" in key])
        exact, half = factors["fp32"] - factors["start"], factors["bf16"] - factors["start"]
        assert torch.cosine_similarity(exact, half, dim=0) > 0.9
        assert float(half.norm()) == pytest.approx(float(exact.norm()), rel=0.1)

    def test_overwrites_nothing(self, base, adapter, tmp_path):
        assert "exists already" in run(train, base, adapter).output
        (tmp_path / "a.work").mkdir()
        (tmp_path / "a.work" / "state.pt").write_bytes(b"")
        assert "--resume" in run(train, base, tmp_path / "a").output


class TestEvaluate:
    def test_cases_are_enough_and_their_ideal_answers_right(self):
        cases = evaluate.cases()
        assert sum(case.set == "figures" for case in cases) >= 200
        assert sum(case.set == "unknown" for case in cases) >= 100
        assert sum(case.set == "courtesy" for case in cases) >= 60
        assert [case.ideal for case in cases if case.ideal and not case.right(case.ideal)] == []

    def test_questions_from_elsewhere_are_answered_by_one_of_two_passages(self):
        cases = evaluate.elsewhere_cases()
        assert len(cases) == 86 and sum(case.answerable for case in cases) == 70
        for case in cases:
            passages = [line[2:] for line in case.messages[-1]["content"].split("\n") if line.startswith("- ")]
            assert len(passages) == 2
            assert any(map(case.right, passages)) == case.answerable
            assert not case.right("R$ 4711")

    def test_no_answer_suits_all(self):
        cases = evaluate.cases(share=0.1)
        for answer in ("", "Não sei, mas posso chamar uma pessoa da equipe.", "O colchão custa R$ 690.", "Olá!"):
            assert sum(case.right(answer) for case in cases) / len(cases) < 0.35

    def test_a_random_model_reaches_no_goal_and_its_card_says_so(self, base, adapter):
        arguments = ["--base", str(base), "--adapter", str(adapter), "--share", "0.03", "--json", "--seal"]
        result = CliRunner().invoke(evaluate.main, arguments)
        assert result.exit_code == 0, result.output
        lines = json.loads(result.stdout)
        assert lines["figures"]["all"] == lines["unknown"]["all"] == lines["courtesy"]["all"] == 0.0
        assert verify(adapter)["held_out"]["figures"]["n"] == lines["figures"]["n"] > 0
        assert "| figures |" in (adapter / "README.md").read_text()
