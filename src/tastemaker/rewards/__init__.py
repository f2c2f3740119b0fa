"""Judges of pictures: the protocol every reward meets, how rewards are asked together, and the verifiable scene reward."""
