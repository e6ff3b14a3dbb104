"""Vendors on loopback: a fake server that receives what we send, and signed traffic as theirs.

It is what `npllm up` talks to while no channel is set up, and a test tool: faults can be scripted.
"""
