#!/usr/bin/env python3
"""Starts multi-model-server as AWS's example does."""

from sagemaker_inference import model_server

model_server.start_model_server(handler_service="/opt/program/service.py:handle")
