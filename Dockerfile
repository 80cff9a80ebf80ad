# syntax=docker/dockerfile:1
# Two images of one environment.
#   docker build --target train -t two-tower-tfx .         the pipeline's steps (Kubeflow, Vertex) and Beam's workers
#   docker build --target serve -t two-tower-tfx-serve .   a pushed model, loaded and asked in one process
# Built for x86-64: ScaNN and ML Metadata have no other Linux wheels.

FROM python:3.10-slim-bookworm AS packages
# pyfarmhash (under TFDV) and crcmod (under Beam) build from source.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY constraints.txt ./
# The hashes are checked for uv itself too. This layer is rebuilt only when constraints.txt changes.
RUN awk '/^uv==/ { found = 1 } found { print } found && !/\\$/ { exit }' constraints.txt > /tmp/uv.txt \
    && pip install --no-cache-dir --require-hashes -r /tmp/uv.txt \
    && uv pip install --python /venv/bin/python --no-cache --require-hashes \
        --build-constraints constraints.txt -r constraints.txt
COPY setup.py pyproject.toml LICENSE ./
COPY two_tower ./two_tower
COPY base ./base
COPY schema ./schema
COPY data_directory ./data_directory
COPY ingestion ./ingestion
COPY simulator ./simulator
COPY trainer ./trainer
COPY serving ./serving
COPY evaluation ./evaluation
COPY components ./components
COPY pipeline ./pipeline
# Installed, not linked: Beam's workers and the steps import the packages from wherever they start.
RUN uv pip install --python /venv/bin/python --no-cache --no-deps --no-build-isolation .

FROM python:3.10-slim-bookworm AS base
# OpenMP, for scikit-learn and ScaNN.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
COPY --from=packages /venv /venv
# TFRS and TensorFlow Transform need Keras 2. KubeflowV2DagRunner ignores the environment of a step, so it is
# set here. The last one lets Beam's container use this Python instead of making an environment of its own.
ENV PATH=/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    TF_USE_LEGACY_KERAS=1 \
    RUN_PYTHON_SDK_IN_DEFAULT_ENVIRONMENT=1

FROM base AS train
# The version is that of apache-beam in constraints.txt. Dataflow starts a worker by the image's entry point;
# Kubeflow and Vertex give the command of each step themselves.
COPY --from=apache/beam_python3.10_sdk:2.59.0 /opt/apache/beam /opt/apache/beam
WORKDIR /app
ENTRYPOINT ["/opt/apache/beam/boot"]

FROM base AS serve
RUN useradd --create-home --uid 1000 serve
USER serve
WORKDIR /home/serve
# docker run -v OUT/pushed:/models:ro IMAGE --user 42
ENTRYPOINT ["two-tower", "query", "--model", "/models"]
CMD ["--help"]
