<!-- missing_schema_name.pml:2:1: <schema> has no name; expected <schema name="…"> -->
<schema>text</schema>
