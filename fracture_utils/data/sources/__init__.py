"""Bring published data sets into the layout {train,test}/{fractured,normal}.

    python -m fracture_utils import NAME SOURCE DESTINATION [--copy]

NAME is mura, fracatlas, grazpedwri or folders (Kaggle's folder sets). SOURCE is the folder or
archive as published; for fracatlas the word "download" fetches it. The pictures are linked, or
copied where they cannot be; images.csv, boxes.csv, source.json and ATTRIBUTION.txt are written
beside them. A second call continues where the first one stopped.
"""

from fracture_utils.data.sources.placing import SOURCES, bring

__all__ = ["SOURCES", "bring"]
