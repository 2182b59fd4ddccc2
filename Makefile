# Two commands for a newcomer: `make demo` and `make test`. Everything lands in .venv.
PYTHON ?= python3
PYTHON312 ?= python3.12
BIN := .venv/bin
EXTRAS := sim,view,train,serve,hdf5,lora,lowmem,wandb,dev
TINY_TASKS := reach-v3 button-press-topdown-v3 drawer-close-v3 door-close-v3 window-open-v3 hammer-v3
SHORT ?= 1
n = $(shell echo $$(( ($(1) + $(SHORT) - 1) / $(SHORT) )))
TABLE := --region -0.5 0.4 -0.05 0.5 1 0.5
DEVICE ?= cpu
MT10 := reach-v3 push-v3 pick-place-v3 door-open-v3 drawer-open-v3 drawer-close-v3 button-press-topdown-v3 peg-insert-side-v3 window-open-v3 window-close-v3
FINETUNING := --demonstrations 10 25 50 --steps 80 --full-rate 5e-4 --lora-rate 5e-3 --every 8 --clips 4 --max-steps 64 --workers 1
MINI_TASKS := button-press-topdown-v3 door-close-v3 window-open-v3
# the autoencoder sees more in three minutes of a GPU than in an hour of two cores
TINY_VAE = $(if $(filter cpu,$(DEVICE)),--episodes 400 --steps $(call n,8000) --image-steps $(call n,1200),--episodes 2300 --steps $(call n,1380) \
	--image-steps $(call n,276) --batch-factor 8 --crop-px 128)
TINY_DATA = --data runs/tiny/data runs/tiny/wander --precision bfloat16 --device $(DEVICE)
MT10_TRAINING = --statistics start --every 8 --cache-processes 2 --batch-size 32 --optimizer muon --learning-rate 8e-4 \
	--precision bfloat16 --action-loss-weight 8 --clean-action-ratio 0.1 --validate-every 0 --save-every 100 --device $(DEVICE)

.PHONY: help demo test test-extras robosuite bench-gpu lint system browser pictures reproduce-tiny reproduce-ablation reproduce-curves reproduce-truth reproduce-finetune reproduce-mt10 reproduce-two-arms reproduce-lerobot conformance-openpi conformance-lerobot conformance-libero clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

.venv/ready: pyproject.toml packages/xwam-client/pyproject.toml packages/xwam-benchmarks/pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable packages/xwam-client --editable packages/xwam-benchmarks --editable '.[$(EXTRAS)]'
	@touch $@

.venv/robosuite: .venv/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt numba termcolor opencv-python-headless
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-deps robosuite
	@touch $@

robosuite: system .venv/robosuite  ## the second simulator, with two-armed tasks (its own pins are older than what works: hence --no-deps)

system:  ## software rendering for the simulator (OSMesa), through apt when root
	@tools/install_system.sh libosmesa6 libegl1 libgl1

browser:  ## headless Chromium, for the tests that open pages as a person would
	@tools/install_system.sh chromium chromium-driver

demo: system .venv/ready  ## act and imagine in Meta-World, write runs/demo/report.html
	$(BIN)/xwam demo

test: system browser .venv/robosuite  ## the whole test suite
	$(BIN)/python -m pytest

test-extras: .venv/ready  ## what the suite skips: Ray Serve with two replicas, fewer bits, rerun, LPIPS (into .venv-extras)
	$(PYTHON) -m venv .venv-extras
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	.venv-extras/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable packages/xwam-client --editable '.[serve,ray,quantize,train,view,rerun,lpips,dev]'
	RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60 .venv-extras/bin/python -m pytest tests/test_quantize.py tests/serve/test_quantized.py tests/serve/test_ray.py tests/view/test_mosaic.py tests/evaluate/test_metrics.py

pictures: browser .venv/ready  ## refresh the screenshot of the 4D page in the README
	XWAM_PICTURES=docs/pictures $(BIN)/python -m pytest tests/view/test_html.py -k person

reproduce-tiny: system .venv/ready  ## a checkpoint like the shipped one, from an empty folder (6 to 7 hours on 2 cores, two of them the transformer; DEVICE=cuda; SHORT=100: a hundredth of everything)
	$(BIN)/xwam collect metaworld --tasks $(TINY_TASKS) --episodes $(call n,240) --out runs/tiny/data
	$(BIN)/xwam collect metaworld --tasks reach-v3 hammer-v3 --episodes $(call n,480) --out runs/tiny/data
	$(BIN)/xwam collect metaworld --wander --tasks $(TINY_TASKS) --episodes $(call n,150) --out runs/tiny/wander
	$(BIN)/xwam train-vae tiny $(TINY_DATA) --weights 3 1 $(TINY_VAE) --out runs/tiny/run/frozen
	$(BIN)/xwam train tiny $(TINY_DATA) --weights 2 1 --out runs/tiny/run --every 6 --cache-processes 2 --batch-size 32 --steps $(call n,4500) \
		--optimizer muon --learning-rate 1e-3 --action-loss-weight 8 --clean-action-ratio 0.1 --validate-every 0 --save-every 250
	$(BIN)/xwam convert run $$(ls -d runs/tiny/run/step-* | tail -1) runs/tiny/undrawn
	$(BIN)/xwam train-vae tiny $(TINY_DATA) --weights 3 1 --start runs/tiny/undrawn --imagined $(call n,1200) --out runs/tiny/drawn \
		--steps $(call n,1500) --learning-rate 1e-3
	mkdir -p runs/tiny/checkpoint && cp -r runs/tiny/undrawn/* runs/tiny/checkpoint && cp -r runs/tiny/drawn/vae runs/tiny/checkpoint
	$(BIN)/xwam evaluate runs/tiny/checkpoint --env metaworld --tasks $(TINY_TASKS) --episodes $(call n,50) --seed 7 --max-steps 100 --out runs/tiny/closed.json
	$(BIN)/xwam evaluate runs/tiny/checkpoint --data runs/tiny/data $(TABLE) --out runs/tiny/open.json
	$(BIN)/xwam evaluate runs/tiny/checkpoint --data runs/tiny/data --mode forward_dynamics $(TABLE) --out runs/tiny/told.json

reproduce-ablation: system .venv/ready  ## the paper's Table 4 in small, 15 trainings of preset mini (about 2 hours on one core)
	$(BIN)/xwam collect metaworld --tasks $(MINI_TASKS) --episodes 80 --out runs/ablation/data
	mkdir -p runs/ablation/source/frozen && cp -r checkpoints/tiny/vae checkpoints/tiny/text runs/ablation/source/frozen
	$(BIN)/xwam train mini --data runs/ablation/data --out runs/ablation/source --every 8 --steps 1 --validate-every 0 --precision bfloat16
	$(BIN)/python benchmarks/ablation.py --source runs/ablation/source --data runs/ablation/data --out runs/ablation/cells

reproduce-curves: system .venv/ready  ## success and quality against steps and replanning (needs runs/tiny/data of reproduce-tiny)
	$(BIN)/python benchmarks/curves.py checkpoints/tiny --data runs/tiny/data --episodes 4 --clips 6 --tasks $(TINY_TASKS) --out runs/curves

reproduce-truth: system .venv/ready  ## does imagination tell the truth
	$(BIN)/python benchmarks/truth.py checkpoints/tiny --episodes 5 --swaps 3 --tasks $(TINY_TASKS) --out runs/truth

reproduce-finetune: system .venv/ready  ## the prior's value: a new task with 10, 25, 50 demonstrations
	$(BIN)/python benchmarks/finetune.py checkpoints/tiny --task drawer-open-v3 --out runs/finetune $(FINETUNING)

reproduce-mt10: system .venv/ready  ## Meta-World's ten tasks, from the shipped checkpoint (about 2.5 hours on 2 cores; SHORT=100: a hundredth of everything)
	$(BIN)/xwam collect metaworld --tasks $(MT10) --episodes $(call n,100) --out runs/mt10/data
	$(BIN)/xwam train tiny --data runs/mt10/data --start checkpoints/tiny --out runs/mt10/run $(MT10_TRAINING) --steps $(call n,2100)
	mkdir -p runs/mt10/more && cp -r runs/mt10/run/latents runs/mt10/more
	$(BIN)/xwam train tiny --data runs/mt10/data --start $$(ls -d runs/mt10/run/step-* | tail -1) --out runs/mt10/more $(MT10_TRAINING) --steps $(call n,1600)
	for run in run more; do \
		$(BIN)/xwam convert run $$(ls -d runs/mt10/$$run/step-* | tail -1) runs/mt10/$$run/checkpoint && \
		$(BIN)/xwam evaluate runs/mt10/$$run/checkpoint --env metaworld --tasks $(MT10) --episodes $(call n,20) --seed 11 --max-steps 125 \
			--no-report --out runs/mt10/$$run/closed.json || exit 1; done

reproduce-two-arms: robosuite  ## a robot with two arms, from the shipped checkpoint (about 2 hours on 2 cores; SHORT=100: a hundredth of everything)
	$(BIN)/xwam collect robosuite --tasks TwoArmLift --episodes $(call n,200) --out runs/two_arms/data
	$(BIN)/xwam train-vae tiny --data runs/two_arms/data --start checkpoints/tiny --out runs/two_arms/vae --steps $(call n,3000) \
		--learning-rate 3e-3 --episodes 180 --precision bfloat16 --device $(DEVICE)
	mkdir -p runs/two_arms/start && cp -r checkpoints/tiny/* runs/two_arms/start
	cp --remove-destination runs/two_arms/vae/vae/* runs/two_arms/start/vae
	$(BIN)/xwam train tiny --data runs/two_arms/data --start runs/two_arms/start --out runs/two_arms/run --cache-processes 2 --batch-size 32 \
		--steps $(call n,1000) --optimizer muon --learning-rate 8e-4 --action-loss-weight 8 --clean-action-ratio 0.1 --precision bfloat16 \
		--validate-every 0 --save-every 100 --device $(DEVICE)
	$(BIN)/xwam convert run $$(ls -d runs/two_arms/run/step-* | tail -1) runs/two_arms/checkpoint
	$(BIN)/xwam evaluate runs/two_arms/checkpoint --env robosuite --tasks TwoArmLift --episodes $(call n,50) --seed 7 --max-steps 125 \
		--out runs/two_arms/closed.json
	$(BIN)/xwam evaluate runs/two_arms/checkpoint --env robosuite --tasks TwoArmLift --episodes $(call n,20) --seed 7 --max-steps 125 \
		--blind --no-report --out runs/two_arms/blind.json
	$(BIN)/xwam evaluate runs/two_arms/checkpoint --data runs/two_arms/data --clips $(call n,16) --out runs/two_arms/open.json

bench-gpu: .venv/ready  ## the 5B model on this machine's GPU, bf16, random weights, answers and a LoRA step: runs/bench/*.json
	$(BIN)/xwam bench wan22_5b --device cuda --precision bfloat16 --json runs/bench/5b.json
	$(BIN)/xwam bench wan22_5b --device cuda --precision bfloat16 --compile --json runs/bench/5b_compiled.json
	$(BIN)/python benchmarks/real_step.py wan22_5b --lora-rank 16 --recompute --optimizer adamw_8bit --out runs/bench/lora.json

conformance-openpi: .venv/ready  ## PyPI's openpi-client, in its own environment, gets actions from our server
	$(PYTHON) -m venv .venv-openpi && .venv-openpi/bin/pip install --quiet openpi-client==0.1.2 typing_extensions
	$(BIN)/python tests/client/openpi_conformance.py .venv-openpi/bin/python checkpoints/tiny

.venv-lerobot/ready: packages/lerobot_policy_xwam/pyproject.toml
	$(PYTHON312) -m venv .venv-lerobot
	.venv-lerobot/bin/pip install --quiet 'lerobot[core-scripts]>=0.6,<0.7' --editable packages/xwam-client --editable '.[sim,serve,view]' --editable packages/lerobot_policy_xwam
	@touch $@

reproduce-lerobot: system .venv/ready .venv-lerobot/ready  ## two tasks of LeRobot's own Meta-World, recorded and played by LeRobot, trained here (an hour on 2 cores)
	.venv-lerobot/bin/python benchmarks/lerobot_metaworld.py runs/lerobot/data --episodes $(call n,40)
	$(BIN)/xwam train tiny --data runs/lerobot/data --robot benchmarks/lerobot_metaworld.json --start checkpoints/tiny --out runs/lerobot/run --every 1 \
		--cache-processes 2 --batch-size 32 --steps $(call n,900) --optimizer muon --learning-rate 8e-4 --precision bfloat16 \
		--action-loss-weight 8 --clean-action-ratio 0.1 --validate-every 0 --save-every 100 --device $(DEVICE)
	for task in button-press-topdown-v3 window-open-v3; do .venv-lerobot/bin/lerobot-eval --policy.type=xwam \
		--policy.checkpoint=$$(ls -d runs/lerobot/run/step-* | tail -1) --policy.device=$(DEVICE) --policy.push_to_hub=false --env.type=metaworld \
		--env.task=$$task --eval.batch_size=2 --eval.n_episodes=$(call n,20) --seed=2000 --output_dir=runs/lerobot/$$task || exit 1; done

conformance-lerobot: system .venv/ready .venv-lerobot/ready  ## LeRobot's lerobot-rollout plays our policies and records what we train on (Python 3.12, 7 GB in .venv-lerobot)
	PYTHONPATH=. $(BIN)/python tests/serve/lerobot_conformance.py .venv-lerobot/bin checkpoints/tiny

conformance-libero: system .venv/ready  ## LIBERO's own episodes through our adapter (LIBERO_PYTHON=… : a Python in which LIBERO runs)
	PYTHONPATH=. $(BIN)/python tests/client_benchmarks/libero_conformance.py $(LIBERO_PYTHON)

lint: .venv/ready  ## ruff and pyright
	$(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright

clean:  ## remove what was built (never your data or runs)
	rm -rf .venv build dist *.egg-info src/*.egg-info packages/*/src/*.egg-info
