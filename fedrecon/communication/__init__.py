"""Low communication: codecs of the changes of a model, as channels of the federated round.

`compressed` makes a channel of a `Codec`, whose messages have scales or places of their own. `random_k`,
`random_mask`, `count_sketch`, `power_sgd` and `majority_vote` are channels whose encoded uploads add over
clients. `serialize` and `deserialize` are the bytes of a message, of the length that the round counts.
"""

from fedrecon.communication.codec import Codec, Encoded, Keys, compressed
from fedrecon.communication.low_rank import power_sgd
from fedrecon.communication.named import CODECS, NamedCodec, named_codec, upload_message
from fedrecon.communication.quantization import bfloat16, dense, qsgd, stochastic
from fedrecon.communication.signs import majority_vote, scaled_signs
from fedrecon.communication.sketches import count_sketch, estimates, sketch
from fedrecon.communication.sparsification import random_k, random_mask, top_k
from fedrecon.communication.wire import HEADER_BYTES, Envelope, Section, deserialize, message_bytes, serialize

__all__ = [
    "CODECS",
    "HEADER_BYTES",
    "Codec",
    "Encoded",
    "Envelope",
    "Keys",
    "NamedCodec",
    "Section",
    "bfloat16",
    "compressed",
    "count_sketch",
    "dense",
    "deserialize",
    "estimates",
    "majority_vote",
    "message_bytes",
    "named_codec",
    "power_sgd",
    "qsgd",
    "random_k",
    "random_mask",
    "scaled_signs",
    "serialize",
    "sketch",
    "stochastic",
    "top_k",
    "upload_message",
]
