<module>
  <module name="b" src="sources/cycle_b.pml"/>
</module>
