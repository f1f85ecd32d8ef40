<!-- missing_src.pml:3:3: src='sources/nowhere.txt' is no file; expected one in the schema's folder -->
<schema name="s">
  <module name="a" src="sources/nowhere.txt"/>
</schema>
