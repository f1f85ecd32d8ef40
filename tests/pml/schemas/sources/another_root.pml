<schema name="a">text</schema>
