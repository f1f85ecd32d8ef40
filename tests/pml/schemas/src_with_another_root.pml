<!-- sources/another_root.pml:1:1: <schema>; expected <module> in a src file -->
<schema name="s">
  <module name="a" src="sources/another_root.pml"/>
</schema>
