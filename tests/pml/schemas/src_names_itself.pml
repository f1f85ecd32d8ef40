<!-- src_names_itself.pml:3:3: cyclic src: src_names_itself.pml → src_names_itself.pml -->
<schema name="s">
  <module name="a" src="src_names_itself.pml"/>
</schema>
