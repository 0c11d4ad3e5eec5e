# The untrusted side: a base LLM, adapters and masked prompts, no documents. The package's other rooms are installed with it;
# the engine imports none of them.
#   docker build -f docker/engine.Dockerfile -t dprag-engine .
FROM python:3.11-slim
RUN useradd --create-home --uid 1000 dprag
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY examples examples
RUN pip install --no-cache-dir -c constraints.txt torch && pip install --no-cache-dir -c constraints.txt '.[engine]'
USER dprag
# The default base, in the image: at run time there is no network, and nothing to write to.
ENV DPRAG_HOME=/home/dprag/base
RUN dprag path base
EXPOSE 8000
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/health', timeout=3)"]
ENTRYPOINT ["dprag", "engine", "--host", "0.0.0.0", "--api-key-file", "/run/secrets/engine-keys"]
