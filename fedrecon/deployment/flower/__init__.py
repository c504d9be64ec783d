"""Flower carries the messages of a deployment: keys, processes, and apps of its message API.

Needs the extra ``flower``, whose modules are imported when they are first used.
"""
