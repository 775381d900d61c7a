# The whole system for a laptop: the checkout with its tools, SoftHSM, an emulator of KMS,
# and a chain.  compose.development.yaml runs it.  Its keys and tokens are for tests only.
ARG BASE=python:3.13-slim
FROM ${BASE}
ENV UV_SYSTEM_CERTS=true
RUN apt-get update --quiet \
 && apt-get install --quiet --yes --no-install-recommends libsofthsm2 \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --user-group --create-home developer \
 && install --directory --owner=developer /checkout /checkout/.hotwallet
WORKDIR /checkout
COPY requirements/uv.txt requirements/dev.txt requirements/
RUN python -m venv .venv \
 && .venv/bin/pip install --no-cache-dir --require-hashes -r requirements/uv.txt \
 && .venv/bin/uv pip sync --no-cache --require-hashes requirements/dev.txt requirements/uv.txt
COPY . .
RUN .venv/bin/uv pip install --no-cache --offline --no-deps --no-build-isolation --editable .
USER developer
# Published on the loopback address of the host only.
ENV HOST=0.0.0.0 \
    PATH=/checkout/.venv/bin:$PATH
CMD ["python", "-m", "dev.stack"]
