"""The package as `settings.ini` describes it."""

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=["="])
parser.read(here / "settings.ini", encoding="utf-8")
settings = parser["DEFAULT"]
train = settings["train_requirements"].split()
app = settings["app_requirements"].split()
natural = settings["natural_requirements"].split()
dicom = settings["dicom_requirements"].split()
heic = settings["heic_requirements"].split()
bench = settings["bench_requirements"].split()
cluster = settings["cluster_requirements"].split()
openvino = settings["openvino_requirements"].split()
dev = train + dicom + heic + natural + cluster + settings["dev_requirements"].split()
statuses = ["Planning", "Pre-Alpha", "Alpha", "Beta", "Production/Stable", "Mature", "Inactive"]
status = int(settings["status"])

setup(
    name=settings["lib_name"],
    version=settings["version"],
    description=settings["description"],
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author=settings["author"],
    author_email=settings["author_email"],
    license="Apache-2.0 AND CC-BY-4.0",  # of the code, and of the weights in it
    license_files=["LICENSE", "retinal_tl/weights/LICENSE-CC-BY-4.0.txt", "retinal_tl/weights/ATTRIBUTION.md"],
    keywords=settings["keywords"],
    url=settings["git_url"],
    project_urls={"Documentation": settings["doc_host"] + settings["doc_baseurl"]},
    packages=find_packages(include=["retinal_tl", "retinal_tl.*"]),
    package_data={"retinal_tl": ["assets/*", "weights/**/*"]},
    python_requires=f">={settings['min_python']}",
    install_requires=settings["requirements"].split(),
    extras_require={
        "train": train,
        "app": app,
        "natural": natural,
        "dicom": dicom,
        "heic": heic,
        "bench": bench,
        "cluster": cluster,
        "openvino": openvino,
        "dev": dev,
    },
    entry_points={
        "console_scripts": settings["console_scripts"].split("\n"),
        "nbdev": [f"{settings['lib_name']}={settings['lib_name']}._modidx:d"],
    },
    classifiers=[
        f"Development Status :: {status} - {statuses[status - 1]}",
        "Intended Audience :: Healthcare Industry",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        *[f"Programming Language :: Python :: {version}" for version in ("3.11", "3.12", "3.13")],
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Medical Science Apps.",
    ],
    zip_safe=False,
)
