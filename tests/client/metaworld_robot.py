"""A robot in a process of its own, as it would be: Meta-World behind the client. ``… PORT PLAY STEPS`` prints JSON."""

import json
import sys

from xwam_client.client import Client
from xwam_client.rollout import rollout

from xwam.sim.metaworld import make_metaworld

port, play, steps = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
env = make_metaworld("reach-v3", width_px=48, height_px=48)
with Client(port=port, connect_seconds=30) as client:
    episode = rollout(env, client, seed=3, play=play, replan_every=4, max_steps=steps, keeps_time=False)
print(
    json.dumps(
        {
            "action": episode.action.tolist(),
            "is_held": episode.is_held.tolist(),
            "is_first": episode.is_first.tolist(),
            "success": episode.success,
            "has_policy": "xwam.policy" in sys.modules,
        }
    )
)
