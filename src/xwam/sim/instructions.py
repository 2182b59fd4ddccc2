"""Every Meta-World task in words, several wordings each. The first is the plainest.

None is longer than 62 letters: small checkpoints read 64 bytes of text and cut the rest.
"""

from xwam.sim.env import check_task

INSTRUCTIONS: dict[str, tuple[str, ...]] = {
    "assembly-v3": (
        "put the ring on the peg",
        "lift the ring by its green handle and drop it over the peg",
        "thread the ring onto the upright peg",
    ),
    "basketball-v3": (
        "put the ball in the basket",
        "dunk the basketball",
        "pick up the orange ball and drop it through the hoop",
        "score with the basketball",
    ),
    "bin-picking-v3": (
        "move the green block to the blue bin",
        "pick the block out of the red bin and put it in the blue bin",
        "take the cube from the red tray and put it in the blue one",
        "carry the block over to the blue bin",
    ),
    "box-close-v3": (
        "close the box with its lid",
        "pick up the lid and put it on the box",
        "cover the box",
        "grasp the lid by its handle and set it on the wooden box",
    ),
    "button-press-topdown-v3": (
        "press the red button from above",
        "push the red button down",
        "press down on the button",
    ),
    "button-press-topdown-wall-v3": (
        "press the red button from above, behind the wall",
        "reach over the wall and push the red button down",
        "go around the wall and press down on the button",
    ),
    "button-press-v3": (
        "press the red button",
        "push the red button into the box",
        "press the button on the side of the box",
        "move forward and press the button",
    ),
    "button-press-wall-v3": (
        "press the red button behind the wall",
        "reach over the wall and push the red button",
        "avoid the wall and press the button",
        "go past the wall and push the button into the box",
    ),
    "coffee-button-v3": (
        "press the button of the coffee machine",
        "start the coffee machine",
        "push the coffee machine's button",
        "switch the coffee maker on",
    ),
    "coffee-pull-v3": (
        "pull the mug away from the coffee machine to the green ball",
        "take the mug from the machine and bring it to the green mark",
        "move the mug from the machine to the green ball",
        "drag the mug to the green mark",
    ),
    "coffee-push-v3": (
        "push the mug under the coffee machine",
        "place the mug in the coffee machine",
        "move the mug to the spout of the coffee machine",
        "slide the mug below the coffee machine",
    ),
    "dial-turn-v3": (
        "turn the dial",
        "rotate the dial on the table",
        "turn the black knob",
    ),
    "disassemble-v3": (
        "take the ring off the peg",
        "lift the ring from the peg by its green handle",
        "remove the ring from the red peg",
        "pull the wrench's ring up and off the peg",
    ),
    "door-close-v3": (
        "close the door",
        "push the door shut",
        "shut the cabinet door",
    ),
    "door-lock-v3": (
        "lock the door",
        "turn the lock of the door down",
        "rotate the lock to lock the door",
    ),
    "door-open-v3": (
        "open the door",
        "pull the door open by its handle",
        "grasp the handle and swing the door open",
        "open the cabinet door",
    ),
    "door-unlock-v3": (
        "unlock the door",
        "turn the lock of the door sideways",
        "rotate the lock to unlock the door",
    ),
    "hand-insert-v3": (
        "put the hand into the hole at the green ball",
        "insert the gripper into the hole",
        "lower the gripper into the hole in the table",
        "reach down into the hole to the green mark",
    ),
    "drawer-close-v3": (
        "close the drawer",
        "push the drawer shut",
        "push the open drawer back in",
        "shut the green drawer",
    ),
    "drawer-open-v3": (
        "open the drawer",
        "pull the drawer open by its handle",
        "grasp the handle and pull the drawer out",
        "pull out the green drawer",
    ),
    "faucet-open-v3": (
        "open the faucet",
        "turn the tap on",
        "rotate the red handle of the faucet to open it",
    ),
    "faucet-close-v3": (
        "close the faucet",
        "turn the tap off",
        "rotate the red handle of the faucet to close it",
    ),
    "hammer-v3": (
        "hammer the nail into the box",
        "pick up the hammer and hit the nail",
        "drive the nail in with the hammer",
        "use the red hammer to push in the nail",
    ),
    "handle-press-side-v3": (
        "press the handle down, from the side",
        "push the red handle down",
        "press down the lever at the side",
        "push the handle on the left down",
    ),
    "handle-press-v3": (
        "press the handle down",
        "push the red handle in front of you down",
        "press down on the handle",
    ),
    "handle-pull-side-v3": (
        "pull the handle up, from the side",
        "lift the red handle",
        "pull up the lever at the side",
        "lift the handle on the left",
    ),
    "handle-pull-v3": (
        "pull the handle up",
        "lift the red handle in front of you",
        "reach below the handle and pull it up",
    ),
    "lever-pull-v3": (
        "pull the lever up",
        "lift the lever",
        "rotate the lever upwards",
        "raise the lever until it stands upright",
    ),
    "peg-insert-side-v3": (
        "insert the peg into the hole from the side",
        "pick up the green peg and push it into the hole of the box",
        "slide the peg into the hole",
    ),
    "pick-place-wall-v3": (
        "move the puck over the wall to the green ball",
        "bring the red puck to the green mark behind the wall",
        "lift the puck past the wall and hold it at the green ball",
        "carry the red puck over the wall to the green mark",
    ),
    "pick-out-of-hole-v3": (
        "take the puck out of the hole and bring it to the green ball",
        "pick the red puck up from the hole",
        "lift the puck out of the hole to the green mark",
        "grasp the puck in the hole and hold it at the green ball",
    ),
    "reach-v3": (
        "reach the green ball",
        "move the gripper to the green mark",
        "touch the green ball with the hand",
    ),
    "push-back-v3": (
        "push the block back to the green ball",
        "pull the wooden block towards the robot, to the green mark",
        "move the block backwards to the green ball",
        "bring the block back to the green mark",
    ),
    "push-v3": (
        "push the red puck to the green ball",
        "move the puck across the table to the green mark",
        "push the puck onto the green mark",
    ),
    "pick-place-v3": (
        "pick up the red puck and bring it to the green ball",
        "lift the puck to the green mark",
        "grasp the puck and hold it at the green ball",
        "pick the puck and place it at the green mark",
    ),
    "plate-slide-v3": (
        "slide the puck into the net",
        "push the black puck into the goal",
        "push the puck forward into the net",
        "slide the black disc forward into the net",
    ),
    "plate-slide-side-v3": (
        "slide the puck sideways into the net",
        "push the black puck to the left into the goal",
        "push the disc sideways into the goal",
        "slide the black disc left into the net",
    ),
    "plate-slide-back-v3": (
        "slide the puck back out of the net to the green ball",
        "pull the black puck out of the goal to the green mark",
        "drag the black disc back to the green ball",
        "get the puck out of the net and bring it to the green mark",
    ),
    "plate-slide-back-side-v3": (
        "slide the puck sideways out of the net to the green ball",
        "drag the black puck right, out of the goal, to the green mark",
        "pull the black disc sideways to the green ball",
        "move the puck sideways from the net to the green mark",
    ),
    "peg-unplug-side-v3": (
        "unplug the peg",
        "pull the peg out of the box, sideways",
        "grasp the peg and pull it out of its hole",
    ),
    "soccer-v3": (
        "kick the ball into the goal",
        "push the soccer ball into the net",
        "score a goal",
        "move the ball into the goal",
    ),
    "stick-push-v3": (
        "push the thermos to the green ball with the stick",
        "grasp the stick and push the bottle with it to the green mark",
        "use the stick to push the thermos sideways",
        "pick up the stick and slide the bottle to the green ball",
    ),
    "stick-pull-v3": (
        "pull the thermos to the green ball with the stick",
        "hook the bottle's handle with the stick and pull the bottle",
        "use the stick to pull the thermos back",
        "grasp the stick, hook the bottle and drag it to the green ball",
    ),
    "push-wall-v3": (
        "push the puck around the wall to the green ball",
        "move the red puck past the wall to the green mark",
        "bring the puck behind the wall, to the green ball",
        "slide the puck around the wall onto the green mark",
    ),
    "reach-wall-v3": (
        "reach the green ball behind the wall",
        "move the gripper over the wall to the green mark",
        "avoid the wall and touch the green ball",
        "go past the wall to the green mark",
    ),
    "shelf-place-v3": (
        "put the block on the shelf",
        "pick up the blue block and place it on the shelf",
        "lift the block onto the shelf",
    ),
    "sweep-into-v3": (
        "sweep the block into the hole",
        "push the wooden block into the hole in the table",
        "move the block into the hole",
        "sweep the cube until it falls into the hole",
    ),
    "sweep-v3": (
        "sweep the block off the table",
        "push the wooden block to the right, off the table",
        "sweep the cube to the right",
    ),
    "window-open-v3": (
        "open the window",
        "slide the window open",
        "push the window's handle to the right",
        "slide the window to the right to open it",
    ),
    "window-close-v3": (
        "close the window",
        "slide the window shut",
        "push the window's handle to the left",
        "slide the window to the left to close it",
    ),
}


def instructions(task: str) -> tuple[str, ...]:
    """All wordings of a task. Raises ValueError with the nearest task names."""
    check_task(task, INSTRUCTIONS)
    return INSTRUCTIONS[task]
