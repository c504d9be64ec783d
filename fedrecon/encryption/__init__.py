"""Additively homomorphic encryption of vectors: sums of clients' updates that the aggregator cannot read.

Every scheme is a `Backend`: Paillier by a library or with the key in shares, CKKS by TenSEAL, and a
collective ring-LWE key that nobody has. Vectors are integers, from `Encoding`.
"""

from fedrecon.encryption.backend import Backend, Encoding, Encrypted, Keys
from fedrecon.encryption.collective_key import collective
from fedrecon.encryption.paillier_schemes import paillier, shared_paillier
from fedrecon.encryption.tenseal_ckks import ckks

__all__ = [
    "Backend",
    "Encoding",
    "Encrypted",
    "Keys",
    "ckks",
    "collective",
    "paillier",
    "shared_paillier",
]
