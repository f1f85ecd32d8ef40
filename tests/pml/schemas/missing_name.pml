<!-- missing_name.pml:3:3: <module> has no name; expected <module name="…"> -->
<schema name="s">
  <module>text</module>
</schema>
