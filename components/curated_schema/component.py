"""CuratedSchema: writes a schema's text as a Schema artifact.

TFX's ImportSchemaGen caches on the file's path, so an edited schema would not run again. Here the text itself
is the parameter. `@component` reads annotations, so this module has no postponed evaluation.
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
    """Writes a schema as schema.pbtxt.

    Args:
      schema: receives the file.
      text: a Schema in text format.
      source_digest: digest of the sources, so that edited code runs again.
    """
    del source_digest
    fileio.makedirs(schema.uri)
    with fileio.open(os.path.join(schema.uri, "schema.pbtxt"), "w") as file:
        file.write(text)
