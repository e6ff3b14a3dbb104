"""The tiny base: a small language model of the project's own, for tests of learning that finish in minutes."""

from pathlib import Path

NAME = "npllm-tiny"
FOLDER = Path(__file__).parent / "base"
