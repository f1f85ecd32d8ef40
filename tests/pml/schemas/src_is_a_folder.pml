<!-- src_is_a_folder.pml:3:3: src='sources' is no file; expected one in the schema's folder -->
<schema name="s">
  <module name="a" src="sources"/>
</schema>
