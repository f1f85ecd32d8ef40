<!-- src_beside_text.pml:3:3: a module with a src is empty itself; expected <module … src=…/> -->
<schema name="s">
  <module name="a" src="sources/plain.txt">text</module>
</schema>
