"""The command line itself: help, errors, exit codes, what is imported."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import types
from dataclasses import fields
from pathlib import Path

import pytest

from tests.unit.tools.conftest import RunCLI
from warploom.errors import ArtifactError, InvalidRequestError
from warploom.runtime.sampling_params import SamplingParams
from warploom.tools.cli import COMMANDS, build_parser, main
from warploom.tools.sampling_flags import sampling_params


def failing_command(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `warploom inspect` raise `error`."""
    module = types.ModuleType("failing")

    def run(args: object) -> None:
        raise error

    module.configure = lambda parser: parser.set_defaults(run=run)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, COMMANDS["inspect"].module, module)


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    for name, command in COMMANDS.items():
        assert re.search(rf"^ +{name} +{command.summary}$", printed, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    printed = capsys.readouterr().out
    assert f"usage: warploom {command}" in printed
    assert "examples:" in printed or "commands:" in printed


def imported_by(*arguments: str) -> set[str]:
    """The top-level packages in `sys.modules` after a command line that ends by `SystemExit` or by itself."""
    code = (
        "import sys\nfrom warploom.tools.cli import main\n"
        f"try: main({list(arguments)!r})\nexcept SystemExit: pass\n"
        "print('\\nmodules', *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    return set(printed.rsplit("\nmodules ", 1)[1].split())


def test_help_imports_next_to_nothing() -> None:
    assert not imported_by("--help") & {"numpy", "msgspec", "rich", "tokenizers", "mlir"}


@pytest.mark.parametrize("command", [["generate", "--help"], ["chat", "--help"], ["compile", "--help"]])
def test_no_help_needs_the_compiler(command: list[str]) -> None:
    assert not imported_by(*command) & {"mlir", "torch", "transformers", "ml_dtypes"}


def test_our_errors_say_what_to_do_and_exit_with_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_command(monkeypatch, ArtifactError("It is broken", expected="whole", found="two halves", fix="glue it"))
    assert main(["inspect"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: It is broken\n  expected: whole\n  found: two halves\n  fix: glue it\n"


def test_other_errors_exit_with_1_and_ask_for_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    failing_command(monkeypatch, ZeroDivisionError("oops"))
    assert main(["inspect"]) == 1
    printed = capsys.readouterr().err
    assert "ZeroDivisionError: oops" in printed
    assert "--debug" in printed
    assert "Traceback" not in printed


def test_what_the_system_refuses_is_no_bug_of_ours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.mlir").write_text("module { func.func @step() { return } }")
    out = tmp_path / "nowhere" / "out.mlir"
    assert main(["opt", str(tmp_path / "empty.mlir"), "cse", "-o", str(out)]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"error: {out}: No such file or directory\n")
    assert "bug" not in printed


def test_a_full_disk_behind_standard_output_is_named(tiny_artifact: Path) -> None:
    command = [sys.executable, "-m", "warploom.tools.cli", "inspect", str(tiny_artifact)]
    with open("/dev/full", "w") as full:
        result = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert result.returncode == 2
    assert result.stderr.startswith("error: the output: No space left on device\n  fix: ")
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize("arguments", [["--debug", "inspect"], ["inspect", "--debug"]])
def test_debug_shows_the_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    failing_command(monkeypatch, ArtifactError("It is broken"))
    assert main(arguments) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"), [(["nowhere"], "is not an artifact"), (["x", "--runs", "0"], "--runs")]
)
def test_starts_that_cannot_be_timed_are_named(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "startup", *arguments]) == 2
    printed = capsys.readouterr().err
    assert named in printed
    assert "Traceback" not in printed


def test_models_are_listed_for_programs_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "llamaforcausal", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["architectures"] == ["LlamaForCausalLM"]


def test_an_interrupt_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    failing_command(monkeypatch, KeyboardInterrupt())
    assert main(["inspect"]) == 130
    assert capsys.readouterr() == ("", "")


def test_wrong_usage_exits_with_2_and_names_the_choices(run_cli: RunCLI) -> None:
    result = run_cli("compute", "x")
    assert result.returncode == 2
    assert all(name in result.stderr for name in COMMANDS)


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ("inspect --json ART --target cpu kernels", {"view": "kernels", "target": "cpu", "json": True}),
        ("inspect ART --form asm source model.norm", {"view": "source", "name": "model.norm", "form": "asm"}),
        ("opt a.mlir --print-changed cse --target cpu dce", {"file": "a.mlir", "passes": ["cse", "dce"]}),
        ("opt --print-changed - cse", {"file": "-", "passes": ["cse"]}),
        ("generate ART one --temperature 0 two --json", {"artifact": Path("ART"), "prompts": ["one", "two"]}),
        ("bench offline ART --seed 3", {"artifact": Path("ART"), "seed": 3}),
    ],
)
def test_options_may_stand_anywhere(arguments: str, wanted: dict[str, object]) -> None:
    words = arguments.split()
    args = vars(build_parser(words[0]).parse_args(words))
    assert {name: args[name] for name in wanted} == wanted


def test_an_unknown_option_is_still_wrong_usage(run_cli: RunCLI) -> None:
    result = run_cli("opt", "a.mlir", "cse", "--no-such-option", "dce")
    assert result.returncode == 2
    assert "--no-such-option" in result.stderr


def test_a_missing_artifact_is_an_error_without_traceback(run_cli: RunCLI) -> None:
    for command in (["generate", "nowhere", "hi"], ["chat", "nowhere"], ["inspect", "nowhere"]):
        result = run_cli(*command)
        assert result.returncode == 2
        assert result.stdout == ""
        assert result.stderr.startswith("error: nowhere is not an artifact\n")
        assert "Traceback" not in result.stderr


def parsed_params(*flags: str, defaults: SamplingParams | None = None) -> SamplingParams:
    args = build_parser("generate").parse_args(["generate", "artifact", "prompt", *flags])
    return sampling_params(args, defaults or SamplingParams())


def test_every_sampling_parameter_has_a_flag() -> None:
    args = vars(build_parser("generate").parse_args(["generate", "artifact", "prompt"]))
    from_python_only = {"logits_processors", "guide"}  # functions, and objects
    assert {field.name for field in fields(SamplingParams)} - from_python_only <= args.keys()


def test_flags_become_parameters() -> None:
    params = parsed_params(
        *("--temperature", "0.5", "--top-k", "4", "--top-p", "0.9", "--min-p", "0.1", "--seed", "7"),
        *("--repetition-penalty", "1.1", "--presence-penalty", "-0.5", "--frequency-penalty", "0.5"),
        *("--max-tokens", "9", "--min-tokens", "2", "--stop", "a", "--stop", "b", "--stop-token-id", "3"),
        *("--ignore-eos", "--logprobs", "2", "--logit-bias", "5=-1.5", "--logit-bias", "6=-inf"),
        *("--n", "2", "--best-of", "3", "--prompt-logprobs", "0", "--bad-word", "c", "--bad-word", "d"),
    )
    assert params == SamplingParams(
        temperature=0.5,
        top_k=4,
        top_p=0.9,
        min_p=0.1,
        seed=7,
        repetition_penalty=1.1,
        presence_penalty=-0.5,
        frequency_penalty=0.5,
        max_tokens=9,
        min_tokens=2,
        stop=("a", "b"),
        stop_token_ids=(3,),
        ignore_eos=True,
        logprobs=2,
        logit_bias={5: -1.5, 6: float("-inf")},
        n=2,
        best_of=3,
        prompt_logprobs=0,
        bad_words=("c", "d"),
    )


def test_what_is_not_given_stays_as_the_authors_recommend() -> None:
    defaults = SamplingParams(temperature=0.0, top_p=0.8, max_tokens=11)
    assert parsed_params(defaults=defaults) == defaults
    assert parsed_params("--temperature", "1", "--seed", "0", defaults=defaults).top_p == 0.8


def test_flags_that_would_do_nothing_are_refused() -> None:
    greedy = SamplingParams(temperature=0.0)
    with pytest.raises(InvalidRequestError, match="--top-k and --min-p would do nothing"):
        parsed_params("--top-k", "5", "--min-p", "0.1", defaults=greedy)
    assert parsed_params("--top-k", "5", "--temperature", "0", defaults=greedy).top_k == 5
    assert parsed_params("--top-k", "5", "--temperature", "1", defaults=greedy).top_k == 5


def test_a_malformed_bias_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parsed_params("--logit-bias", "five")
    assert stop.value.code == 2
    assert "TOKEN=NUMBER" in capsys.readouterr().err
