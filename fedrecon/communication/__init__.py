"""Low communication: codecs of the changes of a model, as channels of the federated round.

`compressed` makes a channel of a `Codec`, whose messages have scales or places of their own. `random_k`,
`shared_top_k`, `random_mask`, `count_sketch`, `power_sgd` and `majority_vote` are channels whose encoded
uploads add over clients. `with_downlink` sends what the server changes by a codec. `serialize` and
`deserialize` are the bytes of a message, of the length that the round counts.
"""

from fedrecon.communication.codec import Codec, Encoded, Keys, compressed, forgetting
from fedrecon.communication.downlink import with_downlink
from fedrecon.communication.low_rank import power_sgd
from fedrecon.communication.methods.feddropoutavg import feddropoutavg
from fedrecon.communication.methods.fedpaq import fedpaq
from fedrecon.communication.methods.streaming_diloco import streaming_diloco
from fedrecon.communication.named import CODECS, NamedCodec, named_codec, upload_message
from fedrecon.communication.quantization import bfloat16, dense, qsgd, rotated, stochastic
from fedrecon.communication.signs import majority_vote, scaled_signs
from fedrecon.communication.sketches import count_sketch, estimates, sketch
from fedrecon.communication.sparsification import random_k, random_mask, shared_top_k, top_k
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
    "feddropoutavg",
    "fedpaq",
    "forgetting",
    "majority_vote",
    "message_bytes",
    "named_codec",
    "power_sgd",
    "qsgd",
    "random_k",
    "random_mask",
    "rotated",
    "scaled_signs",
    "serialize",
    "shared_top_k",
    "sketch",
    "stochastic",
    "streaming_diloco",
    "top_k",
    "upload_message",
    "with_downlink",
]
