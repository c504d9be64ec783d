"""NVIDIA FLARE carries the messages of a deployment: certificates, processes, and a job for its client API.

Needs the extra ``flare``, whose modules are imported when they are first used.
"""
