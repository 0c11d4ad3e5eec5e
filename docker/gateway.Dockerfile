# The trusted side: documents, generator and page. Documents are kept in the volume /store.
#   docker build -f docker/gateway.Dockerfile -t dprag-gateway .
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends tesseract-ocr && rm -rf /var/lib/apt/lists/*  # for --ocr
RUN useradd --create-home --uid 1000 dprag && install -d -o dprag -m 700 /store
WORKDIR /app
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src src
COPY examples examples
RUN pip install --no-cache-dir -c constraints.txt torch && pip install --no-cache-dir -c constraints.txt '.[gateway]'
USER dprag
# The default base, in the image: at run time there is no network, and nothing to write to.
ENV DPRAG_HOME=/home/dprag/base
RUN dprag path base
VOLUME /store
EXPOSE 8080
HEALTHCHECK CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/health', timeout=3)"]
ENTRYPOINT ["dprag", "gateway", "--host", "0.0.0.0", "--store", "/store", "--api-key-file", "/run/secrets/gateway-keys"]
