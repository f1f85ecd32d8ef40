<!-- absolute_src.pml:3:3: src='/etc/passwd'; expected a path relative to the schema's folder -->
<schema name="s">
  <module name="a" src="/etc/passwd"/>
</schema>
