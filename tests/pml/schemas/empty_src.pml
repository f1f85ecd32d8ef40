<!-- empty_src.pml:3:3: module 'a' is empty; expected text, tags or a src -->
<schema name="s">
  <module name="a" src="sources/empty.txt"/>
</schema>
