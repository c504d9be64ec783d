# The programs with their kernels compiled: docker build --tag fedrecon .
# EXTRAS is a list as in pip install "fedrecon[...]": nothing for CPUs, cuda12 for NVIDIA GPUs.
FROM python:3.11-slim

ARG EXTRAS=dicom,images,ismrmrd,nifti,secure,twix

RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /opt/fedrecon
COPY setup.cfg pyproject.toml constraints.txt README.md LICENSE ./
COPY fedrecon fedrecon
COPY operators operators
COPY experiments experiments
COPY data_scripts data_scripts
RUN pip install --no-cache-dir -c constraints.txt ".[${EXTRAS}]"

# Kernels are compiled for the CPU that builds the image; on another one they are compiled again at first use.
ENV FEDRECON_CACHE=/var/cache/fedrecon
RUN python -m operators.native && chmod -R a+rwX "$FEDRECON_CACHE"

# Any user of the container may write there: docker run --user.
WORKDIR /work
RUN chmod a+rwx /work
ENV MPLCONFIGDIR=/tmp/matplotlib
CMD ["python", "-m", "experiments.full_stack", "--help"]
