import re
from pathlib import Path

from setuptools import find_packages, setup

README = Path(__file__).parent / "README.md"


def long_description() -> str:
    """The README for a package index, where a link into the repository would lead nowhere."""
    text = README.read_text(encoding="utf-8")
    without_pictures = re.sub(r"!\[[^]]*\]\((?!https?:)[^)]*\)\n*", "", text)
    return re.sub(r"\[([^]]*)\]\((?!https?:)[^)]*\)", r"\1", without_pictures)


setup(
    name="allennlp_ema",
    version="0.1.0",
    description="Averaged weights for AllenNLP that are right, fast and survive --recover",
    long_description=long_description(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    keywords="allennlp pytorch exponential moving average weight averaging EMA SWA",
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    packages=find_packages(include=["allennlp_ema", "allennlp_ema.*"]),
    package_data={"allennlp_ema": ["py.typed"]},
    python_requires=">=3.8",
    install_requires=[
        # For a legend "outside" of the axes.
        "matplotlib>=3.7",
        "numpy",
        "rich",
        "safetensors",
        "torch>=1.12",
    ],
    extras_require={
        # Not in install_requires: AllenNLP's own pins cannot be met on Python 3.11 and newer, where
        # it has to be installed without its dependencies (see the README).
        "allennlp": [
            "allennlp==2.10.1",
            "numpy<2",
            "lmdb<1.6; python_version < '3.9'",
            "typing_extensions<4.6; python_version < '3.10'",
        ],
    },
)
