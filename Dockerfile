# hf-recipes on a GPU: vLLM's official image, whose torch and vLLM stay as they are.
#
#   docker build -t hf-recipes .
#   docker run --gpus all --ipc=host -v hf:/cache -v "$PWD":/work hf-recipes doctor my-study.yaml
#
# The user 10001 must be able to write to /work. A token comes at run time (`-e HF_TOKEN`), never into the image.
# A tag can move. `docker buildx imagetools inspect vllm/vllm-openai:v0.32.0` prints the digest: append it as @sha256:...
FROM vllm/vllm-openai:v0.32.0
USER root
COPY setup.py pyproject.toml README.md LICENSE /opt/hf-recipes/
COPY hf_recipes /opt/hf-recipes/hf_recipes
COPY metrics /opt/hf-recipes/metrics
COPY spaces_app /opt/hf-recipes/spaces_app
COPY requirements/gpu.txt requirements/missing.py /opt/hf-recipes/requirements/
WORKDIR /opt/hf-recipes

# Only packages that the image lacks are installed, by hash. Then nothing may be downloaded: the build fails if a version
# of the image is outside the bounds of setup.py.
RUN python3 requirements/missing.py requirements/gpu.txt > /tmp/missing.txt \
 && uv pip install --system --no-cache --no-deps --require-hashes -r /tmp/missing.txt \
 && uv pip install --system --no-cache --offline --no-build-isolation . \
 && rm /tmp/missing.txt \
 && useradd --create-home --uid 10001 hf-recipes \
 && install -d -o hf-recipes /cache /work

ENV HF_HOME=/cache/huggingface VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
VOLUME /cache
USER hf-recipes
WORKDIR /work
ENTRYPOINT ["hf-recipes"]
CMD ["--help"]
