<module>
  <module name="c" src="sources/cycle_a.pml"/>
</module>
