"""Prompt modules: schemas and prompts in PML, in Python, or built piece by piece."""

from treeserve.pml.builder import SchemaBuilder
from treeserve.pml.compile import compile_schema
from treeserve.pml.compiled import CompiledSchema, ModulePrompt
from treeserve.pml.parse import parse_prompt, parse_schema, read_prompt, read_schema
from treeserve.pml.place import Place, PmlError
from treeserve.pml.python_way import MaxTokens, PythonSchema, assistant, schema, system, user
from treeserve.pml.tags import ImportTag, PromptTag, Schema, Text, TurnTag
from treeserve.pml.write import write_prompt, write_schema

__all__ = [
    "CompiledSchema",
    "ImportTag",
    "MaxTokens",
    "ModulePrompt",
    "Place",
    "PmlError",
    "PromptTag",
    "PythonSchema",
    "Schema",
    "SchemaBuilder",
    "Text",
    "TurnTag",
    "assistant",
    "compile_schema",
    "parse_prompt",
    "parse_schema",
    "read_prompt",
    "read_schema",
    "schema",
    "system",
    "user",
    "write_prompt",
    "write_schema",
]
