"""Understand a clip: dense depth, confidence and what moves (`geometry`), and where its camera was (`tracking`).

This package knows neither the map nor the generator; frames, poses and renders of the map come in as tensors.
"""
