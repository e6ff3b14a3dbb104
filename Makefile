# The habits, in one word each. `make test` is the README's second command without the install.
bin := .venv/bin

.PHONY: test lint fmt

test:
	$(bin)/pytest -n 2

lint:
	$(bin)/ruff check .
	$(bin)/ruff format --check .
	$(bin)/mypy core bot learning integrations
	$(bin)/lint-imports

fmt:
	$(bin)/ruff check --fix .
	$(bin)/ruff format .
