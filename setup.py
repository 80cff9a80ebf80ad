"""Package metadata: the ranges. The one tested set of versions is constraints.txt."""

from __future__ import annotations

import sys

from setuptools import find_packages, setup

if sys.version_info[:2] != (3, 10):
    sys.exit(
        f"two-tower-tfx needs Python 3.10 and this is Python {sys.version.split()[0]} ({sys.executable}): "
        "TFX 1.16 has no release for it. Run `make setup`, which finds a Python 3.10 or has uv provide one."
    )

setup(
    name="two-tower-tfx",
    version="0.2.0",
    description="From raw events to a gated, served two-tower recommender, on TFX, TFRS and ScaNN",
    license="Apache-2.0",
    python_requires=">=3.10,<3.11",
    # Folders of the repository below one import name: each room is a link in two_tower/.
    packages=find_packages(include=["two_tower", "two_tower.*"]),
    package_data={
        # Cache keys hold the versions of what a component imports.
        "two_tower": ["constraints.txt"],
        "two_tower.schema": ["*.pbtxt"],
        "two_tower.evaluation.report": ["*.j2", "*.css"],
    },
    install_requires=[
        "tfx[kfp]>=1.16.0,<1.17",
        "tensorflow>=2.16.2,<2.17",
        # TFRS and TensorFlow Transform need Keras 2: TF_USE_LEGACY_KERAS=1 selects this package.
        "tf-keras>=2.16.0,<2.17",
        "tensorflow-recommenders>=0.7.7,<0.8",
        # 1.3.3 is built for TensorFlow 2.17.
        "scann>=1.3.2,<1.3.3",
        # Of TFX 1.16's own image. With 2.65 Transform's deep copies fail: AppliedPTransform takes more there.
        "apache-beam[gcp]>=2.59,<2.60",
        "numpy>=1.26,<2",
        # Requirements of packages, for cache keys.
        "packaging>=22",
        "pyarrow>=10,<11",
        # Pyarrow before 14.0.1 runs code from a crafted Parquet file.
        "pyarrow-hotfix>=0.6",
        # Sparse counts and their eigenvectors: co-occurrence, and where items' embeddings begin.
        "scipy>=1.12,<2",
        # Data directories and data sets may lie on gs:// and wherever else fsspec reaches.
        "fsspec>=2024.2",
        "gcsfs>=2024.2",
        # `two-tower tune`: the search, and its plot.
        "optuna>=4.2,<5",
        "matplotlib>=3.8",
        # Matrix factorisation, one of the baselines.
        "implicit>=0.7.2,<0.8",
        # Another home for the embeddings, and what ScaNN is measured against.
        "faiss-cpu>=1.8,<1.12",
        # Its t-SNE draws the report's map of the items.
        "scikit-learn>=1.5,<1.6",
        # The report's page.
        "jinja2>=3.1",
        "psutil>=5.9",
        "pyyaml>=6",
        # The hash of text ids outside TensorFlow, which has the same one.
        "siphash24>=1.9",
        "rich>=13",
        # tensorflow-hub, under TFX, imports pkg_resources, which later versions no longer have.
        "setuptools<81",
    ],
    extras_require={
        "test": ["pytest>=8,<9", "pytest-xdist>=3.6", "hypothesis>=6.100"],
        # What the data plane is measured against.
        "benchmarks": ["polars>=1"],
        "lint": ["ruff>=0.5", "mypy>=1.10", "import-linter>=2.1"],
        # The installer: `make setup` fetches it by pip where the machine has none.
        "setup": ["uv>=0.5"],
    },
    entry_points={"console_scripts": ["two-tower = two_tower.pipeline.commands.main:main"]},
)
