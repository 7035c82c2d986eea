# Thin names for the scripts in tools/, which do the work and can be called without make. Works with GNU make 3.81 and newer.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help dev demo test check docs bench clean

help:
	@echo "make demo    a shop and a flash sale, each without a queue and with one; leaves two pictures; 3 minutes"
	@echo "make test    every check and every test"
	@echo "make check   lint, format, types, architecture; no tests"
	@echo "make dev     the virtual environment for development, in .venv"
	@echo "make docs    the documentation as web pages, in build/docs"
	@echo "make bench   compared with RabbitMQ, NATS, Redis and beanstalkd; 15 minutes, 2 with BENCH=--quick"
	@echo "make clean   remove .venv and everything else that was generated"
	@echo
	@echo "PYTHON=python3.12 make ...   chooses the Python; otherwise the newest one from 3.11 on is taken."

dev:
	@tools/environment dev

demo:
	@tools/environment demo
	@.venv/bin/python -m sluicemq.examples.async_order
	@.venv/bin/python -m sluicemq.examples.peak_shaving

test:
	@tools/test

check: dev
	@tools/check

docs: dev
	@.venv/bin/python -m sphinx -q -W --keep-going -b html docs build/docs
	@echo "open build/docs/index.html"

bench:
	@tools/environment dev
	@.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@bench/install-peers --check || echo "going on without what is missing"
	@.venv/bin/python -m bench run $(BENCH)

clean:
	rm -rf .venv build dist sluicemq.egg-info htmlcov .coverage .coverage.* .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache sluicemq-demo sluicemq-bench-*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
