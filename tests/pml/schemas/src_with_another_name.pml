<!-- sources/another_name.pml:1:1: module 'b'; expected 'a', as in the tag that names this file (src_with_another_name.pml:3:3) -->
<schema name="s">
  <module name="a" src="sources/another_name.pml"/>
</schema>
