"""CuratedSchema: writes a schema's text as a Schema artifact.

TFX's ImportSchemaGen caches on the file's path, so that an edited schema would not run again; here the
text itself is the parameter. (`@component` reads annotations: no postponed evaluation in this module.)
"""

import os

from tfx.dsl.component.experimental.annotations import OutputArtifact, Parameter
from tfx.dsl.component.experimental.decorators import component
from tfx.dsl.io import fileio
from tfx.types.standard_artifacts import Schema


@component
def CuratedSchema(
    schema: OutputArtifact[Schema], text: Parameter[str], source_digest: Parameter[str]
) -> None:
    """Writes `text`, a Schema in text format, as schema.pbtxt.

    `source_digest` is for the cache alone: edited code runs again.
    """
    del source_digest
    with fileio.open(os.path.join(schema.uri, "schema.pbtxt"), "w") as file:
        file.write(text)
