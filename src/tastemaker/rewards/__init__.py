"""Judges of pictures: the protocol every reward meets, how rewards are asked together, and judges in folders, behind
servers, of faces, of lettering and of a user's own."""
