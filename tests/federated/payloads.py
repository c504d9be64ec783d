"""Everything that rounds send, and whether an image is among it."""

import jax
import jax.numpy as jnp
import numpy as np

from fedrecon import federated as fl
from fedrecon.federated.clients import client_rows
from fedrecon.federated.engine import round_keys
from fedrecon.federated.messages import Context
from fedrecon.federated.trees import partition
from fedrecon.federated.turn import ClientRows, choose_batching, client_turn


def sent(algorithm, variables, data, rounds, *, batch_size, epochs=1, seed=0):
    """(last state, all arrays that clients, stacked, and server send in these rounds, by their paths)."""
    batching = choose_batching(algorithm.client.batching, batch_size, epochs, None)
    key = jax.random.key(seed)

    @jax.jit
    def messages(state):
        keys, down = round_keys(key, state.round), algorithm.exchange.broadcast(state.exchange)

        def of_one(client, own):
            context = Context(state.round, keys.clients, client, common=keys.common)
            row = client_rows(data).one(client)
            turn = client_turn(algorithm, batching, (state.variables, down), own, row, context)
            return turn.upload, turn.gathered

        own = ClientRows(state.client, state.client_channel, state.private, state.answers)
        up = jax.vmap(of_one)(jnp.arange(len(data.valid)), own)
        return {"up": up, "down": (down, partition(state.variables, algorithm.share_mask)[0])}

    round = fl.make_round(algorithm, batch_size=batch_size, epochs=epochs, donate=False)
    state, found = fl.init_state(algorithm, variables, data), {}
    for number in range(rounds):
        for path, x in jax.tree_util.tree_flatten_with_path(messages(state))[0]:
            found[f"{number}{jax.tree_util.keystr(path)}"] = np.asarray(x)
        state, _ = round(state, data, key)
    return state, found


def shows(payloads, image):
    """Paths of the arrays in which the image stands, whole, as it is or scaled and shifted.

    Looked for are runs of as many numbers as it has, at any place, that correlate with it perfectly.
    """
    mark = np.asarray(image, float).ravel()
    mark = (mark - mark.mean()) / np.linalg.norm(mark - mark.mean())
    found = []
    for path, x in payloads.items():
        flat = np.asarray(x, float).ravel()
        if flat.size < mark.size:
            continue
        runs = np.lib.stride_tricks.sliding_window_view(flat, mark.size)
        centered = runs - runs.mean(1, keepdims=True)
        length = np.maximum(np.linalg.norm(centered, axis=1), 1e-12)
        if (np.abs(centered @ mark) / length).max() > 0.999:
            found.append(path)
    return found
