"""Run by openpi_conformance.py in openpi-client's own environment; knows nothing of xwam: ``… PORT FOLDER``."""

import sys
from importlib.metadata import version

import numpy as np
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

port, folder = int(sys.argv[1]), sys.argv[2]
seen = dict(np.load(f"{folder}/seen.npz"))
state = seen.pop("state")
policy = WebsocketClientPolicy(host="127.0.0.1", port=port)

metadata = policy.get_server_metadata()
assert [camera["name"] for camera in metadata["cameras"]] == list(seen), metadata["cameras"]
assert metadata["action_horizon"] > 0

nested = policy.infer({"prompt": "close the drawer", "state": state, "images": seen})
flat = {"prompt": "close the drawer", "observation/state": state}
flat.update({f"observation/{name}": image for name, image in seen.items()})
answer = policy.infer(flat)
assert answer["actions"].shape == (metadata["action_horizon"], metadata["action_width"])
assert {"policy_timing", "server_timing"} <= set(answer), sorted(answer)
assert answer["server_timing"]["prev_total_ms"] > 0

try:
    policy.infer({"prompt": "close the drawer", "state": state[:3], "images": seen})
    refusal = None
except RuntimeError as error:
    refusal = str(error)
assert refusal is not None, "a state of the wrong width was accepted"
assert "wrong_shape" in refusal, refusal

horizon = metadata["action_horizon"]  # the broker cuts every array of an answer into so many steps
broker = ActionChunkBroker(policy, action_horizon=horizon)
played = np.stack([broker.infer(flat)["actions"] for _ in range(horizon)])
np.savez(
    f"{folder}/actions.npz",
    nested=nested["actions"], flat=answer["actions"], played=played, version=version("openpi-client"),
)  # fmt: skip
