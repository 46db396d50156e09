# For CPUs, slim: docker build -t cpc . ; docker run -v "$PWD/data:/work/data" -v "$PWD/runs:/work/runs" cpc train RECIPE
# It contains eSpeak NG (GPL-3.0) in the wheel espeakng-loader: who passes the image on, passes that on too.
FROM python:3.11-slim AS build
RUN python -m venv /opt/cpc && /opt/cpc/bin/pip install --no-cache-dir uv
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
COPY cpc cpc
COPY data_prep data_prep
# uv knows where PyTorch keeps its CPU builds; what is left is as in requirements.lock.
RUN grep -vE '^(torch|torchaudio|triton|nvidia|cuda)' requirements.lock > /tmp/constraints.txt \
 && VIRTUAL_ENV=/opt/cpc /opt/cpc/bin/uv pip install --no-cache --torch-backend=cpu --constraint /tmp/constraints.txt \
      "torch==2.11.0" "torchaudio==2.11.0" . \
 && /opt/cpc/bin/python -c 'import torch, torchaudio, cpc'

FROM python:3.11-slim
COPY --from=build /opt/cpc /opt/cpc
COPY recipes /work/recipes
ENV PATH=/opt/cpc/bin:$PATH
WORKDIR /work
ENTRYPOINT ["cpc"]
CMD ["--help"]
