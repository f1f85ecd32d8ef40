<!-- sources/cycle_b.pml:2:3: cyclic src: cyclic_src.pml → sources/cycle_a.pml → sources/cycle_b.pml → sources/cycle_a.pml -->
<schema name="s">
  <module name="a" src="sources/cycle_a.pml"/>
</schema>
