# keras-birds for predicting: recordings to tables, with the model in the box or one that was trained elsewhere, on CPUs.
# No keras, torch or TensorFlow; Dockerfile.train is for training.
#
#   docker build -t birds .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" birds detect recordings --out results
#
# The folder that is mounted at /work is the command's current folder. /models holds what `models add` added: mount a
# volume there to keep it.

FROM python:3.12-slim AS build
# For strip.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends binutils && rm -rf /var/lib/apt/lists/*
# An environment of its own, so that the image gets neither pip nor what was needed to build. Compiled modules would be
# 120 MB more and save 0.8 s of a start.
COPY requirements-predict.txt /src/
RUN python -m venv --without-pip /opt/birds \
    && pip --python /opt/birds/bin/python install --no-cache-dir --no-compile -r /src/requirements-predict.txt
# Off goes what only compilers, other programs and the packages' own tests use. Libraries in folders *.libs can't be
# stripped: their segments would no longer be aligned.
WORKDIR /opt/birds/lib/python3.12/site-packages
RUN find . -type d -name tests -prune -exec rm -r {} + \
    && find . -type f -regex '.*\.\(a\|c\|f\|h\|hpp\|pxd\|pxi\|pyi\|pyx\)' -delete \
    && rm -r onnxruntime/quantization onnxruntime/tools onnxruntime/transformers onnxruntime/capi/libonnxruntime.so.* \
        pyarrow/include pyarrow/*flight* pyarrow/*s3fs* pyarrow/libarrow_s3* pyarrow/libarrow_python.so \
        pyarrow/libarrow_python.so.*.*.* \
    && find fontTools kiwisolver pyarrow -type f -name '*.so*' -exec strip --strip-unneeded {} +
COPY . /src
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheels /src \
    && pip --python /opt/birds/bin/python install --no-cache-dir --no-compile --no-deps /wheels/*.whl
# What was taken off isn't missed.
WORKDIR /tmp/try
ENV PYTHONDONTWRITEBYTECODE=1
RUN /opt/birds/bin/python -c "import numpy as np, soundfile as s; s.write('a.wav', np.sin(np.arange(9e5)), 32000)" \
    && /opt/birds/bin/keras-birds detect a.wav --out results --format csv --format parquet \
    && /opt/birds/bin/keras-birds predict a.wav --figure a.png

FROM python:3.12-slim
COPY --from=build /opt/birds /opt/birds
ENV PATH="/opt/birds/bin:$PATH" \
    HOME=/tmp/home \
    KERAS_BIRDS_MODELS=/models \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
# Any user may write there, whichever --user names.
RUN mkdir -m 1777 /models /tmp/home
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["keras-birds"]
CMD ["--help"]
